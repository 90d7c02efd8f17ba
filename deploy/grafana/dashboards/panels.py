"""What all dashboards share: their frame, and panels of one look."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import (
    bargauge,
    common as options,
    dashboard,
    heatmap,
    prometheus,
    stat,
    text,
    timeseries,
)
from grafana_foundation_sdk.models import common, dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "callbus"
WIDTH = 24
Query = tuple[str, str]  # PromQL, and the legend of its series
Panel = timeseries.Panel | stat.Panel | bargauge.Panel | heatmap.Panel | text.Panel


def frame(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard: the last hour, links to its siblings, alerts as annotations, the data source to choose."""
    alerts = (
        dashboard.AnnotationQuery()
        .name("Alerts")
        .datasource(PROMETHEUS)
        .expr('ALERTS{alertstate="firing", alertname=~"Callbus.+", alertname!="CallbusWatchdog"}')
        .icon_color("red")
        .enable(True)
    )
    return (
        dashboard.Dashboard(f"callbus: {title}")
        .uid(f"callbus-{uid}")
        .description(description)
        .tags([TAG])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(dashboard.DashboardLink("callbus").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .annotation(alerts)
    )


def processes(name: str, label: str, service: str) -> tuple[dashboard.QueryVariable, dashboard.QueryVariable]:
    """Two variables: the id of a process, or all, of the services that `service` (a regular expression) matches; and,
    hidden as `NAME_at`, where they are."""
    chosen = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(f'label_values(callbus_build_info{{service=~"{service}"}}, id)')
        .all_value(".*")
    )
    where = (
        dashboard.QueryVariable(f"{name}_at")
        .query(f'label_values(callbus_build_info{{service=~"{service}", id=~"${name}"}}, instance)')
        .multi(True)
        .hide(model.VariableHide.HIDE_VARIABLE)
    )
    for variable in (chosen, where):
        variable.datasource(PROMETHEUS).include_all(True).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        variable.current(model.VariableOption(selected=True, text="All", value="$__all"))
    return chosen, where


def graph(
    title: str, description: str, *queries: Query, unit: str = "short", span: int = 8, stacked: bool = False
) -> timeseries.Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .tooltip(options.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL))
    for place, query in enumerate(queries):
        panel.with_target(_target(query, place).range())
    return panel


def number(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    steps: Sequence[tuple[float, str]] = (),
    span: int = 4,
) -> stat.Panel:
    """One present value; `steps` give it another colour from a value on (it begins green, or red at `(0, "red")`)."""
    first = "green" if not steps or steps[0][0] > 0 else steps[0][1]
    thresholds = [model.Threshold(value=None, color=first)]
    thresholds += [model.Threshold(value=value, color=colour) for value, colour in steps if value > 0]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .span(span)
        .height(4)
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds))
        .with_target(_target((expr, ""), 0).range())
    )


def bars(title: str, description: str, query: Query, *, unit: str = "short", span: int = 8) -> bargauge.Panel:
    """Present values of several things, side by side."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(span)
        .height(8)
        .orientation(common.VizOrientation.HORIZONTAL)
        .with_target(_target(query, 0).instant())
    )


def distribution(title: str, description: str, histogram: str, *, unit: str = "s", span: int = 8) -> heatmap.Panel:
    """How often which value came, over time. `histogram` is a selector without `_bucket`."""
    name, brace, rest = histogram.partition("{")
    expr = f"sum by (le) (increase({name}_bucket{brace}{rest}[$__rate_interval]))"
    query = (
        prometheus.Dataquery().ref_id("A").expr(expr).legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range()
    )
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .span(span)
        .height(8)
        .with_target(query)
    )


def words(content: str, *, span: int = WIDTH, height: int = 4) -> text.Panel:
    """An explanation, in Markdown."""
    return text.Panel().title("").content(content).span(span).height(height)


def row(title: str) -> dashboard.Row:
    """A heading."""
    return dashboard.Row(title)


def fill(frame: dashboard.Dashboard, *parts: Panel | dashboard.Row) -> dashboard.Dashboard:
    """Rows and panels in reading order."""
    for place, part in enumerate(parts, 1):
        if isinstance(part, dashboard.Row):
            frame.with_row(part.id(place))
        else:
            frame.with_panel(part.id(place))
    return frame


def _target(query: Query, place: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(chr(ord("A") + place)).expr(query[0]).legend_format(query[1])

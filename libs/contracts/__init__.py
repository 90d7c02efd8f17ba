"""The only language that services share: subjects, frames, events, commands, config documents.

Data only: no NATS client, no clock, no I/O. Commands are imperative, events are in the past tense,
every quantity carries its unit in its name.
"""

"""What every gateway must do alike: the suite knows calls, not protocols; a driver brings one entrance's far end."""

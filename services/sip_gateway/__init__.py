"""SIP trunks and RTP: puts the caller's frames on the bus and the agent's on the line."""

"""The gateway's half of a call, the same for every entrance.

`roster`   which workers live, judged only on a sound link (R3, R5)
`leg`      offer, claim, epochs, failover, end of one call (R1, R7, R8, R9)
`playout`  the downlink queue: fence, trim, flush, played position (R6)
`uplink`   50 frames a second whatever the network does (R2)
`audio`    the four above, joined for one call's frames
`shell`    NATS around the cores
"""

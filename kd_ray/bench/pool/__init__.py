"""`kd-ray bench pool`: what the teacher pool costs, bears and survives.

measure.py     all parts, one after another    saturation.py  a host against its own teacher
setup.py       what parts share                round_trip.py  a request to an idle pool
requests.py    requests, and checking answers  tail.py        latencies at a share of the load
models.py      recognisers, random weights     registered.py  300 teachers, few of them loaded
fakes.py       teachers that compute nothing   edges.py       bytes on each edge of the tree
load.py        who asks, and when              scaling.py     1, 2, 4 hosts
fleet.py       four hosts on four nodes        failover.py    a host is killed
goals.py       figures against goals           processes.py   memory and seconds of a process
"""

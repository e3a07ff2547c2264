"""A group of processes that share one text encoder: how they meet, how they watch each other, and what flows between.

`rendezvous` makes a connection between each two shards, `heartbeat` watches over these, `transport` carries hidden
states by torch.distributed, `pipeline` is the order of work. `roles/encode_shards.py` puts them together.
"""

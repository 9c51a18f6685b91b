"""A Proxmox VE API over real LXC containers (or in memory), for the demo and the tests of NHI."""

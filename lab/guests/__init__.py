"""What a guest is, apart from HTTP: kinds, volumes, networks, what the driver is told."""

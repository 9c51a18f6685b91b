"""What stands behind the API: `lxc` makes real containers, `memory` only remembers."""

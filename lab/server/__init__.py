"""The shell of the API: transport, authentication, permissions, parameters, routing, errors."""

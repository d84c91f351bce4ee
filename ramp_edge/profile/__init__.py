"""Device profiles: YAML -> DeviceTarget, and the memory and speed models that budgets rest on."""

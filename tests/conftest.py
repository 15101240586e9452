"""The plugins of every test."""

pytest_plugins = [
    "support.quick_moto",
    "support.core",
    "support.faults",
    "support.local_stack",
    "support.postgresql",
    "support.tenants",
    "support.workflow",
    "support.removal",
]

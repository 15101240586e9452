"""The plugins of every test."""

pytest_plugins = [
    "support.quick_memory",
    "support.quick_stack",
    "support.quick_models",
    "support.quick_moto",
    "support.quick_calls",
    "support.quick_values",
    "support.core",
    "support.faults",
    "support.shares",
    "support.local_stack",
    "support.postgresql",
    "support.mysql",
    "support.tenants",
    "support.mysql_tenants",
    # After those that start servers, so that it looks before they stop them.
    "support.remaining",
    "support.tenant_server",
    "support.workflow",
    "support.dedicated",
    "support.removal",
    "support.cluster_login",
]

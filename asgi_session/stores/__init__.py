"""The stores. Each knows the contract and its own service, neither the core nor another store."""

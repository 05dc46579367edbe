"""Whatever is not the hot path: pages, versions, decisions, orders, metrics, alerts."""

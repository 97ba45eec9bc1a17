"""Results as files: pages that open anywhere, and strict JSON. Everything here consumes plain dictionaries."""

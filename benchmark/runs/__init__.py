"""From a protocol to records: planning, executing, storing."""

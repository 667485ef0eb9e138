"""tomoscribe."""

"""Programs as users have them, and what of them arrives at a receiver."""

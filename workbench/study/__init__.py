"""Pure arithmetic of a study: cost, identity, plan, layout, status."""

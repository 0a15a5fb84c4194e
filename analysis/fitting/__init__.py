"""Parts of `analysis.fit`: objectives, minimisation, minima, intervals, flags, held-out runs, sensitivity."""

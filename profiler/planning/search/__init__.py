"""The exact search engine in parts; `profiler.planning.search.solver` is its front door."""

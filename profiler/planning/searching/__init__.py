"""The exact search engine in parts; `profiler.planning.search` is its front door."""

"""`glm-train demo`: a tiny random GLM and real small data sets, made offline, the same bytes every time."""

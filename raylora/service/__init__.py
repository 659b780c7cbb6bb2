"""What a service runs beside trainings: the supervisor, which goes on with those whose driver or cluster is gone."""

"""What a run is asked to do: YAML and overrides enter, frozen models and their digest leave."""

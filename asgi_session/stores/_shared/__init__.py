"""What several stores share. A store may know these; they know none."""

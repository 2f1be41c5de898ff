"""What all tabs share: the workspace, addresses, jobs."""

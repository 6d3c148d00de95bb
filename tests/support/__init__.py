"""What several tests share: fixtures, stand-ins, programs that tests start."""

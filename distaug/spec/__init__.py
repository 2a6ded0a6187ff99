"""What was asked: the job file as frozen values. Loads neither torch nor ray."""

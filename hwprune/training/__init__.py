"""What a step of training is made of: teacher, losses, schedule, augmentation, snapshots."""

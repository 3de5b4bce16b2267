"""Stage train_teacher: the function is `components.train_teacher.stage.train_teacher`."""

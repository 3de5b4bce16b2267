"""Stage train_student: the function is `components.train_student.stage.train_student`."""

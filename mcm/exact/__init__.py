"""Methods and samplers on Gaussian mixtures, where the teacher, the ODE's map and the data are known exactly.

`stream` draws the training batches, `start` the loss of the network that students start from, `truth` holds what is
true and how far from it points are, `teacher` samples with the closed form.
"""

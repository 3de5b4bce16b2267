"""Sources of images, the memory-mapped set they become, and the stream of batches and draws that training reads."""

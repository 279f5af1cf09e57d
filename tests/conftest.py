import os

# before TensorFlow is imported: its start-up log is not what a test says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

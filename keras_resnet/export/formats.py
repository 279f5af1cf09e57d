"""The formats of an exported model: their precisions and files."""

# format: its precisions, the usual one first
FORMATS = {
    "savedmodel": ("float32", "bfloat16"),
    "onnx": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "litert": ("float32", "int8"),  # int8: of the weights; "dynamic range"
}
FILES = {
    "savedmodel": "saved_model.pb",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "litert": "model.tflite",
}

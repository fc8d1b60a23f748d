"""Doors for graphs that others captured, and the one normaliser behind them.

=================== ==========================================================================================
module               what it does
=================== ==========================================================================================
captured             the file format of captured graphs (exported-graph/1)
torch_program        torch.export programs and FX graphs -> captured graph
onnx_model           ONNX models -> captured graph
program              captured graph -> steps: casts and copies dropped, the mask and position side marked
rules                steps -> fewer steps: norm, rotary, attention, activations, experts, caches
axes, lowering       steps -> drafted operators over loops that nobody had to name
elementwise, products  the handlers of vector and of cube operators
emission             drafts -> graph
importing            all of it in one call
=================== ==========================================================================================
"""

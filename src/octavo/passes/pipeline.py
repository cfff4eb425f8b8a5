"""The order in which a float model is brought into normal form before it is calibrated and planned.

Each pass says in its own file what it rewrites and when it refuses.
"""

from __future__ import annotations

from octavo.graph import Program
from octavo.passes.add_bias import add_bias
from octavo.passes.cancel_moves import cancel_moves
from octavo.passes.center_first import center_first
from octavo.passes.check_operands import check_operands
from octavo.passes.computed_weights import computed_weights
from octavo.passes.densify import densify
from octavo.passes.drop_dead import drop_dead
from octavo.passes.drop_identities import drop_identities
from octavo.passes.drop_nan_guards import drop_nan_guards
from octavo.passes.fake_quant_marks import fake_quant_marks
from octavo.passes.fix_shapes import dynamic_inputs
from octavo.passes.fold_constants import fold_constants
from octavo.passes.fold_pad import fold_pad
from octavo.passes.fold_scales import fold_scales
from octavo.passes.fold_transpose import fold_transpose
from octavo.passes.fuse_activations import fuse_activations
from octavo.passes.hoist_channelwise import hoist_channelwise
from octavo.passes.keep_dims import keep_dims
from octavo.passes.pin_arguments import pin_arguments
from octavo.passes.recognise_embedding import recognise_embedding
from octavo.passes.recognise_functions import recognise_functions
from octavo.passes.recognise_hard_swish import recognise_hard_swish
from octavo.passes.recognise_l2_norm import recognise_l2_norm
from octavo.passes.recognise_pools import recognise_pools
from octavo.passes.recognise_prelu import recognise_prelu
from octavo.passes.recognise_relu import recognise_relu
from octavo.passes.recognise_resize import recognise_resize
from octavo.passes.recognise_softmax import recognise_softmax
from octavo.passes.scale_channels import scale_channels
from octavo.passes.share_equal import share_equal
from octavo.passes.spell_out import spell_out
from octavo.passes.transpose_conv_bias import transpose_conv_bias
from octavo.passes.unpack_constants import unpack_constants
from octavo.versions import settle_versions

PASSES = (
    check_operands,  # before all that counts on them
    fake_quant_marks,  # early: a mark stands between ops that the others want to see side by side
    densify,  # early: sparse constants may be float16 too
    unpack_constants,  # whatever comes later looks at float32 values
    transpose_conv_bias,  # before anything that knows only builtin ops
    pin_arguments,  # weights that a branch gets as arguments are constants for all that follows
    drop_dead,  # no work on what nobody reads
    fold_constants,  # makes shapes, weights and divisors known
    share_equal,  # a layer used twice must be one for what recognises attention and PRELU
    drop_nan_guards,  # a choice that no integer makes
    recognise_functions,  # before spell_out, and before constants fold into what stands next to an activation
    recognise_pools,  # its body is a subgraph that drop_dead then drops
    recognise_embedding,  # as the next ones: one op in place of many, while the pieces are as converters made them
    recognise_resize,  # before cancel_moves merges its reshapes with others
    recognise_softmax,
    recognise_l2_norm,  # before spell_out takes its DIV or NEG
    center_first,  # before spell_out turns its NEG into a MUL
    computed_weights,  # what attention multiplies isn't constant
    recognise_prelu,  # before spell_out, which would take its NEG apart
    spell_out,  # DIV by a constant is a MUL for fold_scales and recognise_hard_swish
    drop_identities,  # x * 1 stands between no two ops any longer
    cancel_moves,  # nor does a reshape
    keep_dims,  # after cancel_moves made RESHAPE of SQUEEZE and EXPAND_DIMS
    fold_transpose,  # a transpose that nothing cancelled
    recognise_relu,  # gives fuse_activations its RELU and RELU6
    hoist_channelwise,  # brings bias and activation of a 1-D convolution to where fold_scales finds them
    fold_scales,  # before fuse_activations: a MUL after a conv folds, after a clipped one mostly not
    fuse_activations,
    scale_channels,  # what fold_scales couldn't fold, with its activation
    cancel_moves,  # again: where a bias stood between two reshapes, they meet now
    recognise_hard_swish,  # knows RELU6 both alone and fused
    fold_pad,  # after fold_scales, which can fold an ADD only where the padding is still its own op
    drop_dead,  # what the rewrites left behind
    add_bias,  # the model must run before it can be calibrated
)


def normalise(program: Program) -> list[str]:
    """Run every pass on `program`, in place; returns their notes for the user."""
    notes = [note for rewrite in PASSES for note in rewrite(program)]
    settle_versions(program)  # rewriting changed types, ranks and options
    return notes + dynamic_inputs(program)

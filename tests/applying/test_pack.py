"""Packed host copies of real tensors: the same values in the same layouts, and the way back."""

import torch
from torch import nn

from profiler.allocator.pinned_chunks import chunks
from profiler.applying.hooks.pack import Pack, slots_of


def model():
    parts = nn.Sequential(
        nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last),
        nn.Linear(5, 7).bfloat16(),
        nn.BatchNorm1d(3),
        nn.Linear(3, 3, bias=False),
        nn.Linear(3, 3, bias=False).to(torch.float8_e4m3fn),
    )
    parts[3].register_parameter("empty", nn.Parameter(torch.empty(0, 3)))
    parts[3].register_parameter("scalar", nn.Parameter(torch.tensor(2.5)))
    parts[3].register_buffer("tied", parts[2].running_mean)
    return parts


def facts(module):
    return {
        name: (tensor.dtype, tensor.shape, tensor.stride(), tensor.float().tolist())
        for name, tensor in module.state_dict().items()
    }


def test_values_layouts_and_ties_survive():
    module = model()
    before = facts(module)
    pack = Pack()
    pack.take_in(slots_of(module), pin=False)
    assert facts(module) == before
    assert module[3].tied is module[2].running_mean
    assert all(
        pack.holds(slot, t) for slot, t in slots_of(module) if t.numel() and slot[1] != "tied"
    )
    pack.give_out(slots_of(module))
    assert facts(module) == before
    assert module[3].tied is module[2].running_mean


def storages(module):
    return len({t.untyped_storage().data_ptr() for _, t in slots_of(module) if t.numel()})


def test_they_lie_in_the_chunks_of_the_packing_and_leave_them():
    module = model()
    pack = Pack()
    apart = storages(module)
    once = {id(t): t.nbytes for _, t in slots_of(module)}
    pack.take_in(slots_of(module), pin=False)
    assert storages(module) == len(chunks(list(once.values()))) < apart
    pack.give_out(slots_of(module))
    assert storages(module) == apart


def test_what_was_replaced_in_between_is_kept():
    module = nn.Linear(2, 2)
    pack = Pack()
    pack.take_in(slots_of(module), pin=False)
    module.weight.data = torch.full((2, 2), 3.0)
    assert [pack.holds(slot, tensor) for slot, tensor in slots_of(module)] == [False, True]
    pack.give_out(slots_of(module))
    assert module.weight.tolist() == [[3.0, 3.0], [3.0, 3.0]]

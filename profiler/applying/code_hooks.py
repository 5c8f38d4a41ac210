"""The hooks of `profiler.applying` once more, short, for code that works without this package.

They do what those do in the ordinary run of things: the same moves, in the same order. What they leave out is told in
their comments. Each text needs the ones before it.
"""

DROP = """
# Model offload copies weights back to the CPU though they never change. This hook keeps the CPU's copy instead.
from accelerate.hooks import CpuOffload, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device


class DropOffload(CpuOffload):
    travelling = frozenset()  # places of tensors that come and go by themselves

    def tensors(self, module):
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is not None and (id(part), name) not in self.travelling:
                        yield (id(part), name), tensor

    def host_copies(self, module):  # which tensors are this hook's, and copies of those that are as they came
        kept, hosts, ours = vars(self).pop("kept", {}), {}, set()
        for place, tensor in self.tensors(module):
            ours.add(id(tensor))
            if place in kept:
                host, address, version = kept[place]
                # Layerwise casting casts float8 up and back at every forward, which loses nothing.
                same = tensor.data_ptr() == address or tensor.dtype == torch.float8_e4m3fn
                if same and tensor.dtype == host.dtype and tensor._version == version:
                    hosts[id(tensor)] = host
        return ours, hosts

    def init_hook(self, module):  # accelerate calls this to attach the hook, and to offload
        ours, hosts = self.host_copies(module)

        def home(tensor):
            return hosts.get(id(tensor), tensor).to("cpu") if id(tensor) in ours else tensor

        # Read by vram-profiler, if it watches: these bytes are not copied.
        home.dropped_bytes = sum(host.nbytes for host in hosts.values())
        module._apply(home)
        return module

    def bring(self, module, keep=True):
        on_cpu = [(p, t, t.data) for p, t in self.tensors(module) if t.device.type == "cpu"]
        ours = {id(tensor) for _, tensor, _ in on_cpu}
        module._apply(
            lambda t: t.to(self.execution_device, non_blocking=True) if id(t) in ours else t
        )
        now = dict(self.tensors(module)) if keep else {}
        self.kept = {
            place: (host, now[place].data_ptr(), now[place]._version)
            for place, _, host in on_cpu
            if place in now
        }

    def pre_forward(self, module, *args, **kwargs):
        previous = self.prev_module_hook
        if previous is not None and next(previous.model.parameters()).device.type != "cpu":
            previous.offload()
            torch.cuda.empty_cache()
        if next(module.parameters()).device == self.execution_device:
            return args, kwargs
        self.bring(module)
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)

    def detach_hook(self, module):
        return self.init_hook(module)


def replace_hook(module, make):
    user = next(user for user in pipe._all_hooks if user.model is module)
    remove_hook_from_module(module)
    user.hook = make(user.hook.execution_device, user.hook.prev_module_hook)
    add_hook_to_module(module, user.hook)
"""

PACK = '''

def view_into(memory, begin, like):
    strides = torch.empty_like(like, device="meta").stride()
    return memory[begin : begin + like.nbytes].view(like.dtype).as_strided(like.shape, strides)


def aligned(nbytes):
    return -(-nbytes // 512) * 512


def pin(tensors):
    """Move tensors into few pinned blocks: PyTorch rounds each one up to a power of two."""
    left = sorted({id(t): t for t in tensors if t.nbytes}.values(), key=lambda t: -t.nbytes)
    while left:
        room = sum(aligned(tensor.nbytes) for tensor in left)
        size = 1 << (room - 1).bit_length()
        if room > 1 << 20 and size - room > size // 64:
            size = max(size // 2, 1 << (aligned(left[0].nbytes) - 1).bit_length())
        memory, begin, rest = torch.empty(size, dtype=torch.uint8, pin_memory=True), 0, []
        for tensor in left:
            if begin + aligned(tensor.nbytes) > size:
                rest.append(tensor)
                continue
            view = view_into(memory, begin, tensor)
            view.copy_(tensor.data)
            tensor.data = view
            begin += aligned(tensor.nbytes)
        left = rest
'''

PINNED = '''

class PinnedOffload(DropOffload):
    """The same with the CPU's copy page-locked; what is changed on the card comes back to ordinary memory."""

    def init_hook(self, module):
        super().init_hook(module)
        if not vars(self).get("pinned"):
            self.pinned = True
            pin([tensor for _, tensor in self.tensors(module) if tensor.is_floating_point()])
        return module
'''

STREAMED = """

# Of a model's blocks some stay. Each of the others is copied while the one before it computes.
from collections import Counter

from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.group_offloading import ModuleGroup


class BlockGroup(ModuleGroup):
    keeps_host_copy = True  # read by vram-profiler, if it watches
    home, copied = (), None

    def _init_cpu_param_dict(self):
        return {}

    def _onload_from_memory(self):
        hosts = [tensor.data for tensor in self.tensors]
        nbytes = sum(aligned(host.nbytes) for host in hosts)
        # On the stream that computes: it frees the memory, too, after the block's forward. So nobody else gets it
        # early, and the copy waits until whoever had it before is through.
        memory, begin, views = torch.empty(nbytes, dtype=torch.uint8, device=self.onload_device), 0, []
        self.stream.wait_stream(torch.cuda.current_stream(self.onload_device))
        with torch.cuda.stream(self.stream):
            for host in hosts:
                views.append(view_into(memory, begin, host))
                views[-1].copy_(host, non_blocking=True)
                begin += aligned(host.nbytes)
            self.copied = self.stream.record_event()
        self.home = list(zip(self.tensors, hosts))
        for tensor, view in zip(self.tensors, views):
            tensor.data = view

    def wait(self):
        if self.copied is not None:
            torch.cuda.current_stream(self.onload_device).wait_event(self.copied)
            self.copied = None

    def _offload_to_memory(self):
        self.wait()
        for tensor, host in self.home:
            tensor.data = host
        self.home = ()


class BlockHook(ModelHook):
    def __init__(self, groups, index):
        super().__init__()
        self.groups, self.index = groups, index

    def pre_forward(self, module, *args, **kwargs):
        own = self.groups[self.index]
        free(group for group in self.groups if group is not own)  # fetched, and another was called
        if not own.home:
            own.onload_()
        own.wait()
        if self.index + 1 < len(self.groups) and not self.groups[self.index + 1].home:
            self.groups[self.index + 1].onload_()
        return args, kwargs

    def post_forward(self, module, output):
        self.groups[self.index].offload_()
        return output


def free(groups):
    for group in groups:
        if group.home:
            group.offload_()


def blocks_of(module, listed=False):
    for child in module.children():
        holds = isinstance(child, torch.nn.ModuleList)
        holds = holds or (listed and isinstance(child, torch.nn.ModuleDict))
        if listed and not holds:
            yield child
        else:
            yield from blocks_of(child, holds)


def places_of(module):
    for part in module.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield (id(part), name), tensor


class StreamedOffload(CpuOffload):
    def __init__(self, rest, resident_blocks, stays=False):
        super().__init__(rest.execution_device, rest.prev_module_hook)
        self.rest, self.resident_blocks, self.stays, self.groups = rest, resident_blocks, stays, None

    def init_hook(self, module):
        if self.groups is None:
            DropOffload.init_hook(self.rest, module)
            self.set_up(module)
        free(self.groups)
        if self.stays:
            self.rest.bring(module, keep=False)
            return module
        return self.rest.init_hook(module)

    def set_up(self, module):
        blocks = list(dict.fromkeys(blocks_of(module)))
        count = len(blocks) - self.resident_blocks  # of those that travel, spread evenly
        chosen = [blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count)]
        everywhere = Counter(id(tensor) for _, tensor in places_of(module))
        own = []
        for block in chosen:
            here = Counter(id(tensor) for _, tensor in places_of(block))
            own.append({
                id(tensor): (place, tensor)
                for place, tensor in places_of(block)
                if tensor.is_floating_point() and here[id(tensor)] == everywhere[id(tensor)]
            })
        ids = {key for one in own for key in one}
        self.rest.travelling = frozenset(p for p, tensor in places_of(module) if id(tensor) in ids)
        pin([tensor for one in own for _, tensor in one.values()])
        stream, device = torch.cuda.Stream(self.execution_device), self.execution_device
        self.groups = []
        for index, (block, one) in enumerate(zip(chosen, own)):
            group = BlockGroup([block], torch.device("cpu"), device, block, block, stream=stream)
            group.tensors = [tensor for _, tensor in one.values()]
            self.groups.append(group)
            registry = HookRegistry.check_if_exists_or_initialize(block)
            registry.register_hook(BlockHook(self.groups, index), "streamed_block")

    def pre_forward(self, module, *args, **kwargs):
        free(self.groups)
        args, kwargs = self.rest.pre_forward(module, *args, **kwargs)
        self.groups[0].onload_()
        return args, kwargs

    def post_forward(self, module, output):
        free(self.groups)
        return output

    def detach_hook(self, module):
        free(self.groups)
        for group in self.groups:
            group.modules[0]._diffusers_hook.remove_hook("streamed_block", recurse=False)
        self.groups, self.rest.travelling = None, frozenset()
        return self.rest.init_hook(module)
"""

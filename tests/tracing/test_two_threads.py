"""What the package replaces in torch is there once for all threads: one has it at a time, and all of it comes back."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from left_behind import changes, snapshot
from placed_worlds import nets

from profiler import profile_pipeline
from profiler.errors import InputError
from profiler.tracing import trace
from profiler.virtual import VirtualGPU


@pytest.fixture
def elsewhere():
    """Return how to do something in another thread, always the same one, and get what it returned or raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:

        def do(action):
            future = pool.submit(action)
            return future.exception() or future.result()

        yield do


def enter_gpu():
    with VirtualGPU() as gpu:
        return torch.ones(2, device="cuda").device.type, gpu


def enter_trace():
    with trace(nets()):
        pass


def profile():
    return profile_pipeline(nets(), gpu="rtx-4090")


@pytest.mark.parametrize("enter", [enter_gpu, enter_trace, profile])
def test_a_second_thread_is_refused_in_a_sentence_and_disturbs_nothing(elsewhere, enter):
    before = snapshot()
    with VirtualGPU():
        inside = snapshot()
        refused = elsewhere(enter)
        assert isinstance(refused, InputError), refused
        assert str(refused).startswith("a virtual GPU is already active in thread 'MainThread'")
        assert not changes(inside, snapshot())
        assert torch.ones(2, device="cuda").is_cuda
    assert not changes(before, snapshot())
    if enter is enter_gpu:
        assert elsewhere(enter)[0] == "cuda"


def test_two_threads_that_race_get_one_virtual_gpu_at_a_time():
    before, start, entered = snapshot(), threading.Barrier(4), []

    def work():
        start.wait()
        for _ in range(5):
            try:
                with VirtualGPU(replay=False):
                    entered.append(1)
                    assert torch.ones(2, device="cuda").sum().is_cuda
                    entered.append(-1)
            except InputError as error:
                assert "already active in thread" in str(error)  # noqa: PT017

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    assert set(entered[::2]) == {1}
    assert set(entered[1::2]) == {-1}
    assert not changes(before, snapshot())


def test_a_virtual_gpu_is_left_in_its_own_thread(elsewhere):
    before = snapshot()
    with VirtualGPU() as gpu:
        told = elsewhere(lambda: gpu.__exit__(None, None, None))
        assert isinstance(told, InputError)
        assert "was entered in thread 'MainThread': leave it there" in str(told)
        assert torch.ones(2, device="cuda").is_cuda
    assert not changes(before, snapshot())


def test_what_an_ended_thread_did_not_leave_is_put_back_by_the_next_virtual_gpu():
    before = snapshot()
    gradients = torch.is_grad_enabled()
    thread = threading.Thread(target=VirtualGPU().__enter__)
    thread.start()
    thread.join()
    assert changes(before, snapshot())
    with VirtualGPU():
        assert torch.ones(2, device="cuda").is_cuda
    assert not changes(before, snapshot())
    assert torch.is_grad_enabled() == gradients


def test_a_second_virtual_gpu_on_the_thread_is_refused():
    before = snapshot()
    with VirtualGPU() as gpu:
        for again in (VirtualGPU(), gpu):
            with pytest.raises(InputError, match="already active on this thread"):
                again.__enter__()
        assert torch.ones(2, device="cuda").is_cuda
    with gpu:  # the same one, later
        assert torch.ones(2, device="cuda").is_cuda
    assert not changes(before, snapshot())


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
def test_left_in_any_order_nothing_stays(order):
    """A GPU and two traces, entered in this order."""
    before = snapshot()
    gpu = VirtualGPU()
    gpu.__enter__()
    pipe = nets()
    entered = [gpu, trace(pipe), trace(pipe)]
    for one in entered[1:]:
        one.__enter__()
    for index in order:
        entered[index].__exit__(None, None, None)
    assert not changes(before, snapshot())
    assert "_apply" not in vars(pipe.encoder)
    assert not pipe.encoder._forward_hooks


def test_a_mode_of_the_users_that_outlasts_the_gpu_stays_theirs():
    from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

    class Mine(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    before, mine = snapshot(), Mine()
    with ExitStack() as stack:
        gpu = VirtualGPU()
        gpu.__enter__()
        stack.enter_context(mine)
        gpu.__exit__(None, None, None)
        assert _get_current_dispatch_mode_stack() == [mine]
        assert type(torch.ones(2)) is torch.Tensor
    assert not changes(before, snapshot())


def test_functions_that_were_taken_hold_of_inside_are_torch_s_own_again_outside():
    real = torch.cuda.is_available()
    with VirtualGPU():
        held = torch.cuda.is_available
        assert held()
    assert held() == real


def test_a_generator_and_a_task_that_enter_leave_nothing():
    before = snapshot()

    def generator():
        with VirtualGPU():
            yield torch.ones(2, device="cuda").device.type

    suspended = generator()
    assert next(suspended) == "cuda"
    with pytest.raises(InputError, match="already active on this thread"):
        enter_gpu()
    suspended.close()

    async def task():
        with VirtualGPU():
            await asyncio.sleep(0)
            return torch.ones(2, device="cuda").device.type

    async def both():
        return await asyncio.gather(task(), task(), return_exceptions=True)

    first, second = asyncio.run(both())
    assert first == "cuda"
    assert isinstance(second, InputError)
    assert not changes(before, snapshot())

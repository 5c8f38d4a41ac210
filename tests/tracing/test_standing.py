"""Replaced attributes of single objects stay with them."""

import copy

from diffusers import FlowMatchEulerDiscreteScheduler

from profiler.tracing.standing import Stands, method_of


def test_a_deep_copy_has_the_original_and_works_on_itself():
    """LTX-2's pipelines copy their scheduler, whose steps are traced, for the sound."""
    scheduler, seen, stands = FlowMatchEulerDiscreteScheduler(), [], Stands()
    original = method_of(scheduler, "set_timesteps")

    def watched(*args, **kwargs):
        seen.append(args)
        return original(*args, **kwargs)

    stands.replace(scheduler, "set_timesteps", watched)
    copied = copy.deepcopy(scheduler)
    copied.set_timesteps(7)
    scheduler.set_timesteps(3)
    stands.restore()

    assert (len(copied.timesteps), len(scheduler.timesteps)) == (7, 3)
    assert seen == [(3,)]
    assert "set_timesteps" not in vars(scheduler)


def test_a_deep_copy_keeps_what_its_object_had_set_before():
    scheduler, stands = FlowMatchEulerDiscreteScheduler(), Stands()
    scheduler.scale_noise = len

    stands.replace(scheduler, "scale_noise", max)
    copied = copy.deepcopy(scheduler)

    assert copied.scale_noise is len

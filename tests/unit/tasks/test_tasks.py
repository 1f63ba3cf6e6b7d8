import pickle
import subprocess
import sys

import pytest

from frostline.spec import TASKS


@pytest.mark.parametrize("name", list(TASKS))
def test_a_pickled_task_is_the_one_object_of_its_name(name):
    assert pickle.loads(pickle.dumps(TASKS.get(name))) is TASKS.get(name)


def test_a_new_process_reads_pickled_tasks():
    pickled = pickle.dumps([TASKS.get(name) for name in TASKS])
    code = "import pickle, sys; print(*pickle.load(sys.stdin.buffer))"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, check=True)
    assert done.stdout.decode().split() == list(TASKS)

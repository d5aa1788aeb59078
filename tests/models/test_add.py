import pytest
def test_x(added_repository):
    pass

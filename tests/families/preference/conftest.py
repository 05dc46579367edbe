from tests.support.judge_endpoints import endpoint

__all__ = ["endpoint"]

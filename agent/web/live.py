"""The newest pictures and the event stream."""

from fastapi import APIRouter

router = APIRouter()

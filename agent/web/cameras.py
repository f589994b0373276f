"""Cameras, their settings, health, products, devices and probes."""

from fastapi import APIRouter

router = APIRouter()

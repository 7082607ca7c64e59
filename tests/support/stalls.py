"""A stall as tests write it down."""

from __future__ import annotations

from taskwatt.observations import CodeSite, Stall
from tests.support.segments import START_NS

CODE = CodeSite("shop.pay", "sign", "/shop/pay.py", 7, 0.75, 12)
STALL = Stall(
    loop="MainThread",
    task="shop.pay",
    cause="gil",
    start_ns=START_NS,
    duration_s=0.5,
    cpu_s=0.125,
    run_delay_s=0.25,
    others_cpu_s=0.375,
    code=CODE,
    stack='File "/shop/app.py", line 3, in main\nFile "/shop/pay.py", line 7, in sign',
    trace_id=b"t" * 16,
    span_id=b"s" * 8,
    link_trace_id=b"l" * 16,
    link_span_id=b"k" * 8,
    process_class="web",
)

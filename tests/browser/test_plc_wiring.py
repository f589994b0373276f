"""An electrician wires a PLC: the page in a real browser, a real agent, and a Modbus client as the PLC."""

from collections.abc import Callable
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from browser_visit import Visit
from modbus_plc import ACK, NG, OK, READY, TRIGGER, ModbusPlc
from mosquitto_broker import MosquittoBroker, free_port
from playwright.sync_api import expect
from station import ROOT, Parts, Station

PICTURES = sorted((ROOT / "demo/teach/test").glob("*.jpg"))


def test_the_page_shows_what_the_plc_sends_and_gets(
    visit: Visit, mosquitto: Callable[..., MosquittoBroker], tmp_path: Path
) -> None:
    port, page = free_port(), visit.page
    parts = Parts(product="alien", goods=PICTURES, line=PICTURES)
    with Station(tmp_path, parts, mosquitto()) as station, ModbusPlc(port) as plc:
        page.goto(f"{station.origin}/#setup")
        card = page.locator(".card").filter(has=page.get_by_role("heading", name="7. PLC"))
        expect(card.get_by_text("This camera has no handshake with a PLC.")).to_be_visible()
        page.get_by_role("radio", name="On a signal of a PLC").check()
        page.get_by_role("textbox", name="Address and port of this device").fill(f"127.0.0.1:{port}")
        page.get_by_role("button", name="Switch the handshake on").click()
        expect(card.get_by_text("No client has asked since the agent started.")).to_be_visible(timeout=120_000)
        assert 'trigger: "plc"' in station.config and "# above the belt" in station.config
        with page.expect_popup() as popup:
            page.get_by_role("link", name="Addresses and rules for the program of the PLC").click()
        expect(popup.value.get_by_text("plant.modbus.listen is 127.0.0.1")).to_be_visible()
        popup.value.close()
        card.get_by_role("button", name="Reject").click()
        expect(card.get_by_text("Connect the PLC first")).to_be_visible()
        plc.connect()
        plc.wait(READY)
        expect(card.get_by_text("A client asks for the signals.")).to_be_visible()

        card.get_by_role("button", name="Reject").click()
        assert not plc.wait(NG)[OK]
        expect(card.get_by_text("Waiting for ResultsAck from the PLC")).to_be_visible()
        card.get_by_text("All signals").click()
        expect(card.get_by_role("row", name="Ng 1")).to_be_visible()
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [one for one in found if one["impact"] in ("serious", "critical")] == []
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        plc.set(ACK, True)
        expect(card.get_by_text("ResultsAck has come")).to_be_visible()
        expect(card.get_by_text("The dry test has ended.")).to_be_visible()
        plc.set(ACK, False)
        plc.wait(READY)

        card.get_by_role("button", name="OK").click()
        plc.wait(OK)
        plc.set(TRIGGER, True)
        assert not plc.status()[OK]
        expect(card.get_by_text("Trigger has come")).to_be_visible()
        expect(card.get_by_role("row", name="Missed 1")).to_be_visible()
        visit.check(station.origin)

"""What people ask a help desk for, by the team that handles it: seen by two of the tasks."""

TROUBLES: dict[str, tuple[str, ...]] = {
    "Billing": (
        "the invoice shows the wrong amount",
        "my card was charged twice",
        "the refund has not been paid",
        "the receipt for last month is missing",
        "the discount is not on the invoice",
        "the payment was declined",
    ),
    "Shipping": (
        "the parcel has not arrived",
        "the package was left at the wrong address",
        "the courier did not deliver the boxes",
        "the delivery is two weeks late",
        "the tracking page says the parcel is lost",
        "the shipment came damaged",
    ),
    "Accounts": (
        "the password does not work",
        "my login is locked",
        "the reset code for my password never comes",
        "the new colleague has no login",
        "my account was disabled",
        "the sign in page rejects my password",
    ),
    "Hardware": (
        "the printer is jammed",
        "the screen of my laptop is broken",
        "the keyboard has a dead key",
        "the projector does not turn on",
        "the laptop battery does not charge",
        "the printer has no toner",
    ),
    "Software": (
        "the app crashes after the update",
        "the program freezes when I save",
        "the update cannot be installed",
        "the spreadsheet program shows an error",
        "the app does not open any file",
        "the licence of the program has expired",
    ),
    "Personnel": (
        "my holiday request is not approved",
        "the salary slip is wrong",
        "I need a certificate for my parental leave",
        "my sick days are not counted",
        "the overtime is missing on my salary slip",
        "my contract ends and nobody renewed the leave days",
    ),
}
TEAMS = tuple(TROUBLES)

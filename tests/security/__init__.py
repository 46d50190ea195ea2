"""What an attacker, a bad script or a broken job may try: each of these was found by trying it."""

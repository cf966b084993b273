import hashlib, json, time

def write_token(redis, corp_id, secret, value, fetched_at, expires_in):
    """Takes `fetched_at` from time.time(), read before the fetch, and `expires_in` from the answer."""
    app = hashlib.sha256(secret.encode()).hexdigest()[:32]
    fetched_at = int(fetched_at * 1000)
    expires_at = fetched_at + expires_in * 1000
    left = expires_at - int(time.time() * 1000)
    document = {"value": value, "fetched_at": fetched_at, "expires_at": expires_at}
    if left > 0:
        redis.set(f"wecom:access_token:{corp_id}:{app}", json.dumps(document), px=left)

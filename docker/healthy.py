"""Whether what this container serves is well: `grace serve` at 8000, or the explorer at 7860.

Exit status 0 if so, else 1.
"""

import os
import sys
import urllib.error
import urllib.request

# an unhealthy `grace serve` answers 503, and no explorer runs beside it
URLS = os.environ.get("GRACE_HEALTH_URL", "http://127.0.0.1:8000/health http://127.0.0.1:7860/").split()

found = []
for url in URLS:
    try:
        with urllib.request.urlopen(url, timeout=8 / len(URLS)) as answer:
            print(f"{url}: {answer.status}")
        sys.exit(0)
    except urllib.error.HTTPError as error:
        found.append(f"{url}: {error.code} {error.read(300).decode('utf-8', 'replace')}")
    except OSError as error:
        found.append(f"{url}: {error}")
print("; ".join(found))
sys.exit(1)

"""What a quick path answers, for tests of both vendors."""
from hypervisor.spec.context import QUICK_AGAIN, QUICK_MORE

OF_ENTRY = 'with new EAX to EDX'

def recorded(quick, answers):
    """The two halves of a quick path (hypervisor/kernel/quick.py) for the crossing's double; `answers` gets what is answered in the end."""
    def asked(half):
        def ask():
            answer = half()
            if answer != QUICK_MORE:
                answers.append(answer if 0 <= answer <= QUICK_AGAIN else OF_ENTRY)
            return answer
        return ask
    return asked(quick.first), asked(quick.more)
